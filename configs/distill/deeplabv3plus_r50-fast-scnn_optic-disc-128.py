_base_ = ['../student/fast-scnn_optic-disc-128.py']
distill = dict(
    teachers=[
        dict(config='configs/teacher/deeplabv3plus_r50-d8_optic-disc.py', checkpoint='work_dirs/deeplabv3plus_r50-d8_optic-disc/best.pth'),
    ],
    features=dict(  # the index of a name is its feature index
        student=['backbone.global_feature_extractor', 'backbone.feature_fusion', 'decode_head.convs'],
        teacher=['backbone.layer3', 'backbone.layer4', 'decode_head.bottleneck']),
    losses=dict(
        logits=dict(type='KL', on='logits', weight=3.0, tau=1.0, per_class=True),
    ))
