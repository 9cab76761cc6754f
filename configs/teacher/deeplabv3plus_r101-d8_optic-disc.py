_base_ = [
    '../_base_/models/deeplabv3plus_r101-d8.py', '../_base_/datasets/optic-disc.py',
    '../_base_/schedules/sgd_poly_1k.py', '../_base_/default_runtime.py'
]
