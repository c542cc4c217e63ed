"""What a verdict rests on: counterexamples, as competitions read them, replayed on the model's own file."""
