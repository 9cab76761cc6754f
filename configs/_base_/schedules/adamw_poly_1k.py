# AdamW with a linear warm-up and a poly decay to 0, 1,000 iterations; --iters stretches it.
_base_ = ['./sgd_poly_1k.py']
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=50, end=1000, by_epoch=False),
]
