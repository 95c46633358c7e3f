"""From gains to tables, verdicts and sentences."""
