"""Linear constraints on the input of a domain: they cut its box and sharpen bounds over it. Pure functions on tensors.

Zhou et al., "Clip-and-Verify: Linear Constraint-Driven Domain Clipping for Accelerating Neural Network Verification"
(arXiv 2512.11087). `constraints` holds them, `relaxed` shrinks boxes, `complete` minimises linear functions under them,
`centred` many functions of many dimensions at once.
"""
