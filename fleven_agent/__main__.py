"""`python -m fleven_agent` is `fleven-agent`."""

from fleven_agent.cli.main import main

raise SystemExit(main())
