# ADE20K at 512 x 512, SegFormer: MiT-B0 under MiT-B5, mmseg's own recipes of both (160,000 iterations of 16 images).
_base_ = ['mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py']
train_dataloader = dict(batch_size=16)
distill = dict(
    teachers=[
        dict(
            config='mmseg::segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512.py',
            checkpoint='checkpoints/segformer_mit-b5_512x512_160k_ade20k.pth')
    ],
    features=dict(student=['backbone[2]', 'backbone[3]'], teacher=['backbone[2]', 'backbone[3]']),
    losses=dict(kd=dict(type='CWD', on='logits', tau=4.0, weight=dict(share=1.0))))
