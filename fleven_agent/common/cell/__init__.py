"""The cell: where code that a run brings works, apart from what the machine keeps. Shared by car and server."""
