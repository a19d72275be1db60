"""From a video file to the clips a model takes, without Keras.

`decode` gives the wanted frames of a file, or all of them, and imports what else callers need to read files (PyAV):
`container` opens a file, `bitstream` looks into packets, `reading` gives packets and frames, `pictures` makes frames
into RGB, `header` reads what a file says about itself, `index` its time line. `sampling` says which frames the
published tests take, `transforms` resizes, crops and normalises them (OpenCV), `protocols` puts them together.
PyAV and OpenCV come with the extra `video`.
"""
