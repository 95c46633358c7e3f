"""Sizes, arms, targets and seeds as phases, jobs, costs and disk."""
