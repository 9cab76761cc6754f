# Cityscapes at 1024 x 1024, SegFormer: MiT-B0 under MiT-B5, mmseg's own recipes of both (160,000 iterations of 8 images).
_base_ = ['mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py']
train_dataloader = dict(batch_size=8)
distill = dict(
    teachers=[
        dict(
            config='mmseg::segformer/segformer_mit-b5_8xb1-160k_cityscapes-1024x1024.py',
            checkpoint='checkpoints/segformer_mit-b5_1024x1024_160k_cityscapes.pth')
    ],
    features=dict(student=['backbone[2]', 'backbone[3]'], teacher=['backbone[2]', 'backbone[3]']),
    losses=dict(kd=dict(type='CWD', on='logits', tau=4.0, weight=dict(share=1.0))))
