"""An extension of rdistill: a loss, a searcher, a scheduler, a layout of data and a kind of teacher of one's own."""

from setuptools import setup

setup(
    name="rdistill-example",
    version="0.1.0",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=["rdistill_example"],
    install_requires=["rdistill"],
    # The name that a config or a sweep file uses, and the module that registers it: imported when the name is used.
    entry_points={
        "rdistill.losses": ["ExampleHuber = rdistill_example.losses"],
        "rdistill.searchers": ["example_qmc = rdistill_example.search"],
        "rdistill.schedulers": ["example_median = rdistill_example.search"],
        "rdistill.layouts": ["ExamplePhotos = rdistill_example.layouts"],
        "rdistill.teachers": ["example_cnn = rdistill_example.teachers"],
    },
)
