"""The pages for people: the ground they stand on, and a module for each family of pages."""
