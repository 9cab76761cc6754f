# CIRKD's and Af-DCD's CamVid schedule: 40,000 iterations, SGD 0.02, momentum 0.9, weight decay 1e-4, poly 0.9.
_base_ = ['./sgd_poly_1k.py']
optim_wrapper = dict(optimizer=dict(lr=0.02, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(max_iters=40000, val_interval=4000)
