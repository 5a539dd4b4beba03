"""Teachers: one file a kind, each giving denoise(x, sigma, condition) → x_0 in the VE convention."""
