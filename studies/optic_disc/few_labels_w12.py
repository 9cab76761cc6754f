# The same question for the second student: twice as wide, 0.5 M parameters.
_base_ = ['../../configs/student/fpn_r18-w12_optic-disc-128.py']
model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 2.0])))
optim_wrapper = dict(optimizer=dict(lr=0.008))
train_cfg = dict(max_iters=1000, val_interval=100)
train_dataloader = dict(batch_size=8, dataset=dict(indices=27))
distill = dict(
    teachers=[dict(config='studies/optic_disc/teacher.py', checkpoint='work_dirs/study/optic_disc/all/teacher/best.pth')],
    losses=dict(kd=dict(type='KL', on='logits', weight=dict(share=3.0))),
    unlabeled=dict(img_dir='img_dir/train', per_batch=8))
