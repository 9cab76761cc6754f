# Labels for 36 of the 367 training images, twelve frames in a row of each of the three sequences (frames drawn at random
# would show all of the sequences). The teacher saw these labels only, and says something of all images.
_base_ = ['./student.py']
train_dataloader = dict(
    dataset=dict(indices=[*range(12), *range(62, 74), *range(163, 175)]))
distill = dict(
    teachers=[dict(config='studies/camvid/teacher.py', checkpoint='work_dirs/study/camvid/few/teacher/best.pth')],
    # strides 4 and 16 of the pyramids, and what the backbones end with
    features=dict(student=['neck[0]', 'neck[2]', 'backbone[3]'], teacher=['neck[0]', 'neck[2]', 'backbone[3]']),
    losses=dict(kd=dict(type='KL', on='logits', weight=dict(share=1.0))),
    unlabeled=dict(img_dir='img_dir/train', per_batch=8))
