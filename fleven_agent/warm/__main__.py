"""``python -m fleven_agent.warm``: the warm process.

Only ``ending`` is imported at the top: its exit function has to be registered before any other.
"""

import sys

from fleven_agent.warm import ending

if __name__ == "__main__":
    ending.register()
    from fleven_agent.warm.server import main

    sys.exit(main())
