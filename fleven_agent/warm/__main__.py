"""``python -m fleven_agent.warm``: the warm process; with ``cell`` as the first argument, the cell of the packages.

Only ``exit_hook`` is imported at the top: its exit function has to be registered before any other.
"""

import sys

from fleven_agent.warm import exit_hook

if __name__ == "__main__":
    exit_hook.register()
    if sys.argv[1:2] == ["cell"]:
        from fleven_agent.warm.cell import main as cell_main

        sys.exit(cell_main(sys.argv[2:]))
    from fleven_agent.warm.server import main

    sys.exit(main())
