"""Reading and writing objects in any store: URLs, object stores, retries, early requests, local files and caches."""
