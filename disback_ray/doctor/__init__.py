"""`disback-ray doctor`: looks at each machine of a cluster, and says what would not work and what to do. Knows no Ray."""
