"""The property as language: grammar, two readers (general and streaming) and their normal form. Imports no torch."""
