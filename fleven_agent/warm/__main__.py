"""``python -m fleven_agent.warm``: the warm process.

Only ``exit_hook`` is imported at the top: its exit function has to be registered before any other.
"""

import sys

from fleven_agent.warm import exit_hook

if __name__ == "__main__":
    exit_hook.register()
    from fleven_agent.warm.server import main

    sys.exit(main())
