"""The search engine: controller, sampling, early stopping, finalists and backends."""
