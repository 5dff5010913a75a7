from gatelog.cli import main

main()
