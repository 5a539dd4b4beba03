"""`disback-ray plan`: what each role will need and how long a step will take, before anything runs."""
