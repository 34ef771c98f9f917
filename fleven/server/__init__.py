"""fleven-server: the SuperLink, the fleet register and the run scheduler. Imports no torch."""
