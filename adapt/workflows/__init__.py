"""What a user does: pretrain, adapt, resume, plan, reproduce, export. One file each."""
