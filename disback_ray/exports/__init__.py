"""A run's generator in the form that other people's tools load. export.py is where a new one is added."""
