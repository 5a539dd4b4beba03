"""The networks: U-Nets for images, MLPs for points, and the preconditionings that make denoisers of them."""
