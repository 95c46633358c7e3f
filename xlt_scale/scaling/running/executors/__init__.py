"""Where a study's jobs are carried out."""
