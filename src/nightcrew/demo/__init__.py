"""The sample application: upload a presentation, watch it being converted, download the PDF.

`nightcrew demo` starts it. It uses nothing of Nightcrew but what any application would use.
"""
