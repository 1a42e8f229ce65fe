from setuptools import find_packages, setup

# Why each pin: TRL's trainers change from one minor release to the next, and tests/test_paper.py and the exact
# resumption (training/exact_resume.py) rest on what these releases do. vllm 0.30.0 in turn wants exactly this torch.
CORE = [
    "torch==2.13.0",
    "transformers==5.23.0",
    "trl==1.16.0",
    "accelerate==1.15.0",
    "peft==0.21.2",
    "datasets==5.2.0",
    # CPU 4-bit, which the toy runs of QLoRA recipes need, is young and moves.
    "bitsandbytes==0.50.2",
    # Verdicts must not change under a benchmark's feet.
    "math-verify==0.9.0",
    # Nor must the shares of language_consistency.
    "lingua-language-detector==2.1.1",
    # 0.31 changed the file format of offline runs that tests read back.
    "wandb==0.31.0",
    # The sketches of near-duplicates differ between releases.
    "rensa==0.5.0",
    # Without a pin: stable interfaces, used lightly.
    "httpx2",
    "jinja2",
    "matplotlib",
    "numpy",
    "psutil",
    "pyarrow",
    "annotated-types",
    "pydantic>=2",
    "pyyaml",
    "rich",
    "tqdm",
]

setup(
    name="open-r1",
    version="0.1.0",
    description="An open reproduction of DeepSeek-R1 on top of TRL",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "open_r1": ["templates/*.jinja", "report/templates/*.jinja", "benchmarks/*.yaml", "config/architectures.yaml"]
    },
    install_requires=CORE,
    extras_require={
        # trl 1.16 accepts vllm 0.22 to 0.31; 0.30.0 is the one that goes with torch 2.13.0.
        # kernels brings flash attention without compiling it.
        "gpu": ["vllm==0.30.0", "deepspeed", "transformers[kernels]==5.23.0"],
        # ruff's rules and formatting differ between releases.
        "dev": ["transformers[serving]==5.23.0", "pytest", "hypothesis", "pytest-xdist", "ruff==0.17.6"],
    },
    entry_points={"console_scripts": ["open-r1 = open_r1.cli:main"]},
)
