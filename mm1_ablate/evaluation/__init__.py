"""How a trained model is scored: a task is a record, a metric a file, and demonstrations are encoded once for all questions."""
