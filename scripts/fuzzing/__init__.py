"""The subjects of `scripts/fuzz.py`: what is drawn, what is called with it, what is right."""
