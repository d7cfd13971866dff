"""``natsmesh dev``: everything on one machine, reloaded as files are saved."""
