_base_ = ['../student/fpn_r18-w6_optic-disc-128.py']
distill = dict(
    teachers=[
        dict(
            config='configs/teacher/fpn_efficientnet-lite0_optic-disc-128.py',
            checkpoint='work_dirs/fpn_efficientnet-lite0_optic-disc-128/best.pth'),
    ],
    losses=dict(logits=dict(type='KL', on='logits', weight=1.0, tau=1.0)))
