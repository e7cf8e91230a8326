"""What `hf-mi-ssl` does beside the recipes: a recipe checked before it runs, a run looked at."""
