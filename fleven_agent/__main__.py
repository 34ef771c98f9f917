"""`python -m fleven_agent` is `fleven-agent`."""

from fleven_agent.cli import main

raise SystemExit(main())
