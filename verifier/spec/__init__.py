"""The property as language: grammar, two readers (general and streaming) and the normal form they share. Imports no torch."""
