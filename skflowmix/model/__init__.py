"""The model: stacked flows, their components, the mixture."""
