"""What is done to pixels, in jax.numpy: the same on the host and the device.

`resize` crops, `operations` are the original's changes of colour and
sharpness, `batched` the same where many images are changed at once, and
`photometric` composes them into a view, by the random numbers that `draws`
names. Nothing here knows TensorFlow; `data.render` makes it a part of the input
pipeline, and `training.step` of the step.
"""
