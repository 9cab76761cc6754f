_base_ = ['../student/deeplabv3plus_r18-slim_camvid.py']
distill = dict(
    teachers=[
        dict(config='configs/teacher/deeplabv3plus_r50-slim_camvid.py', checkpoint='work_dirs/deeplabv3plus_r50-slim_camvid/best.pth'),
    ],
    task_weight=1.0,  # on the student's own losses
    features=dict(  # the index of a name is its feature index
        student=['backbone.layer3', 'backbone.layer4', 'decode_head.bottleneck'],
        teacher=['backbone.layer3', 'backbone.layer4', 'decode_head.bottleneck']),
    losses=dict(
        logits=dict(type='CWD', on='logits', weight=3.0, tau=4.0),
    ))
