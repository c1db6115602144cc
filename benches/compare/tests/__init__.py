"""What can be said without measuring: `PYTHONPATH=benches python3 -m unittest discover -s benches/compare/tests -t benches`."""
