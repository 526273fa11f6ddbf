"""Turn the command line and Hydra's configuration into plain, checked settings.

Only this package and the command import Hydra.
"""
