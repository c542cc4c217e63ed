"""From results to a page that people read, and from one image instance to a picture.

    records   runs and published answers as read and checked
    figures   what is counted
    plots     matplotlib
    page      HTML
    write     a report: the four put together
    view      one instance as a picture

Nothing here runs a verifier; `view` runs the model itself.
"""
