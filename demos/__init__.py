"""A folder per paper, whose ``TAB`` :func:`demos.core.tabs.discover` finds, and what all of them share, in ``core``."""
