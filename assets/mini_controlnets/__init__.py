"""Three small ControlNets for mini-sdxl, and how they were taught."""
