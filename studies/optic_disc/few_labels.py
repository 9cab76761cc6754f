# Labels for 27 of the 267 training images; the teacher, which saw these labels only, says something of all of them.
_base_ = ['./student.py']
train_dataloader = dict(dataset=dict(indices=27))
distill = dict(
    teachers=[dict(config='studies/optic_disc/teacher.py', checkpoint='work_dirs/study/optic_disc/few/teacher/best.pth')],
    # strides 4 and 16 of the pyramids, and what the backbones end with
    features=dict(student=['neck[0]', 'neck[2]', 'backbone[3]'], teacher=['neck[0]', 'neck[2]', 'backbone[3]']),
    losses=dict(kd=dict(type='KL', on='logits', weight=dict(share=1.0))),
    unlabeled=dict(img_dir='img_dir/train', per_batch=8))
