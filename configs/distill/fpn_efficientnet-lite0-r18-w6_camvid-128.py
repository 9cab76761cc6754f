_base_ = ['../student/fpn_r18-w6_camvid-128.py']
distill = dict(
    teachers=[
        dict(
            config='configs/teacher/fpn_efficientnet-lite0_camvid-128.py',
            checkpoint='work_dirs/fpn_efficientnet-lite0_camvid-128/best.pth'),
    ],
    losses=dict(logits=dict(type='KL', on='logits', weight=1.0, tau=2.0)))
