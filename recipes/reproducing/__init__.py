"""What recipes/reproduce.py is made of: the declared matrix, its runs, their evidence, and the page made of it."""
