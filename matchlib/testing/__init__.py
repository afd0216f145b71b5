"""Laws that every plugin is held to, and an exact Gaussian world to hold them in. Shipped, so that plugin authors run the same ones."""
