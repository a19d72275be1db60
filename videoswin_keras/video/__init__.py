"""From a video file to the clips a model takes, without Keras.

`decode` reads the time line and the wanted frames of a file (PyAV), `sampling` says which frames the published tests
take, `transforms` resizes, crops and normalises them (OpenCV), `protocols` puts the three together.
PyAV and OpenCV come with the extra `video`.
"""
